-- Removes what every expected group has finished, and nothing else. A missing group stops the trimming.
-- KEYS: stream    ARGV: expected groups    Returns how many entries went.
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local function field(map, name)
  for i = 1, #map, 2 do if map[i] == name then return map[i + 1] end end
end
local function before(a, b)
  local a_ms, a_seq = string.match(a, '(%d+)-(%d+)')
  local b_ms, b_seq = string.match(b, '(%d+)-(%d+)')
  if tonumber(a_ms) ~= tonumber(b_ms) then return tonumber(a_ms) < tonumber(b_ms) end
  return tonumber(a_seq) < tonumber(b_seq)
end
local needed, found, smallest = {}, 0, nil
for _, group in ipairs(ARGV) do needed[group] = true end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local name = field(group, 'name')
  if needed[name] then found = found + 1 end
  -- A group that is not ours is respected as well: somebody reads it.
  local oldest = redis.call('XPENDING', KEYS[1], name)[2] or field(group, 'last-delivered-id')
  if not smallest or before(oldest, smallest) then smallest = oldest end
end
if found < #ARGV then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', smallest)
