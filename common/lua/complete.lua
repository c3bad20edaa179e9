-- Stream to stream: each entry is acknowledged, and only who acknowledged it writes its result.
-- KEYS: source stream, target stream, dead letters
-- ARGV: group, now, consumer, how many entries are pending for it as far as it knows, ids of the results separated by
--   spaces, then each result's data for the target, in that order; then per fault: id, original, reason
-- Returns {results written, dead letters written}.
local source, target, group = KEYS[1], KEYS[2], ARGV[1]
local written, dead = 0, 0
local ids = {}
for id in string.gmatch(ARGV[5], '%S+') do ids[#ids + 1] = id end

-- A consumer knows of all that is pending for it, and may know of more, which others have taken or acknowledged. So
-- equal numbers mean that every one of its entries is pending: acknowledged together, they cost a quarter. A group
-- that is missing has none, which is no error here.
local function holds_all()
  for _, consumer in ipairs(redis.pcall('XPENDING', source, group)[4] or {}) do
    if consumer[1] == ARGV[3] then return consumer[2] == ARGV[4] end
  end
  return false
end

local at_once = #ids > 0 and holds_all() and #ids or 1
for first = 1, #ids, at_once do
  local last = first + at_once - 1
  if redis.call('XACK', source, group, unpack(ids, first, last)) > 0 then
    for i = first, last do redis.call('XADD', target, '*', 'data', ARGV[5 + i]) end
    written = written + last - first + 1
  end
end
for i = 6 + #ids, #ARGV, 3 do
  local id = ARGV[i]
  local pending = redis.pcall('XPENDING', source, group, id, id, 1)
  local attempts = pending[1] and pending[1][4] or 0
  if redis.call('XACK', source, group, id) == 1 then
    redis.call('XADD', KEYS[3], '*', 'data', ARGV[i + 1], 'reason', ARGV[i + 2], 'source_stream', source,
      'entry_id', id, 'attempts', attempts, 'at', ARGV[2], 'group', group)
    dead = dead + 1
  end
end
return {written, dead}
