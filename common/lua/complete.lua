-- Stream to stream: each entry is acknowledged, and only who acknowledged it writes its result.
-- KEYS: source stream, target stream, dead letters
-- ARGV: group, now, then per entry: id, result, reason ('' writes the result to the target, else result is the original)
-- Returns {results written, dead letters written}.
local written, dead = 0, 0
for i = 3, #ARGV, 3 do
  local id, result, reason = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local attempts
  if reason ~= '' then
    local pending = redis.call('XPENDING', KEYS[1], ARGV[1], id, id, 1)
    attempts = pending[1] and pending[1][4] or 0
  end
  if redis.call('XACK', KEYS[1], ARGV[1], id) == 1 then
    if reason == '' then
      redis.call('XADD', KEYS[2], '*', 'data', result)
      written = written + 1
    else
      redis.call('XADD', KEYS[3], '*', 'data', result, 'reason', reason, 'source_stream', KEYS[1], 'entry_id', id,
        'attempts', attempts, 'at', ARGV[2], 'group', ARGV[1])
      dead = dead + 1
    end
  end
end
return {written, dead}
