-- Stream to stream: each entry is acknowledged, and only who acknowledged it writes its result.
-- KEYS: source stream, target stream, dead letters
-- ARGV: group, now, number of results, then per result: id, data for the target; then per fault: id, original, reason
-- Returns {results written, dead letters written}.
local source, target, group = KEYS[1], KEYS[2], ARGV[1]
local written, dead = 0, 0
local faults = 4 + 2 * tonumber(ARGV[3])
for i = 4, faults - 1, 2 do
  if redis.call('XACK', source, group, ARGV[i]) == 1 then
    redis.call('XADD', target, '*', 'data', ARGV[i + 1])
    written = written + 1
  end
end
for i = faults, #ARGV, 3 do
  local id = ARGV[i]
  local pending = redis.call('XPENDING', source, group, id, id, 1)
  local attempts = pending[1] and pending[1][4] or 0
  if redis.call('XACK', source, group, id) == 1 then
    redis.call('XADD', KEYS[3], '*', 'data', ARGV[i + 1], 'reason', ARGV[i + 2], 'source_stream', source,
      'entry_id', id, 'attempts', attempts, 'at', ARGV[2], 'group', group)
    dead = dead + 1
  end
end
return {written, dead}
