-- Stream to stream: each entry is acknowledged, and only who acknowledged it writes its result.
-- KEYS: source stream, target stream, dead letters, the consumer's lease
-- ARGV: group, now, consumer, its lease's holder, how many entries are pending for it as far as that one knows, ids of the
--   results separated by spaces, then each result's data for the target, in that order; then per fault: id, original,
--   reason. Consumer and holder are empty unless the results are as `Held` says.
-- Returns {results written, dead letters written}.
local source, target, group = KEYS[1], KEYS[2], ARGV[1]
local written, dead = 0, 0
local ids = {}
for id in string.gmatch(ARGV[6], '%S+') do ids[#ids + 1] = id end

-- Nobody but the holder of a lease can have taken or acknowledged such entries while it lasts, so that all of them are
-- pending: acknowledged together, which spares a third of this script. The numbers differ when somebody acted by hand, as
-- by destroying the group; a missing one has no entries, which is no error here.
local function all_are_pending()
  if redis.call('GET', KEYS[4]) ~= ARGV[4] then return false end
  for _, consumer in ipairs(redis.pcall('XPENDING', source, group)[4] or {}) do
    if consumer[1] == ARGV[3] then return consumer[2] == ARGV[5] end
  end
  return false
end

local at_once = #ids > 0 and all_are_pending() and #ids or 1
for first = 1, #ids, at_once do
  local last = first + at_once - 1
  if redis.call('XACK', source, group, unpack(ids, first, last)) > 0 then
    for i = first, last do redis.call('XADD', target, '*', 'data', ARGV[6 + i]) end
    written = written + last - first + 1
  end
end
for i = 7 + #ids, #ARGV, 3 do
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
