-- Source to stream, for markets: what changed goes out, and the sweep's state moves, in one step or not at all.
-- KEYS: stream, dead letters, one key per state item, one hash of remembered versions per offer
-- ARGV: source, now, number of state items, their values, then per offer: identity, version, data, fault
-- Returns {added, dead, known}.
local states = tonumber(ARGV[3])
local added, dead, known = 0, 0, 0
local offer = 0
for i = 4 + states, #ARGV, 4 do
  offer = offer + 1
  local versions, identity, version, data, fault = KEYS[2 + states + offer], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HGET', versions, identity) == version then
    known = known + 1
  else
    redis.call('HSET', versions, identity, version)
    if fault == '' then
      redis.call('XADD', KEYS[1], '*', 'data', data)
      added = added + 1
    else
      redis.call('XADD', KEYS[2], '*', 'data', data, 'reason', fault, 'source_stream', ARGV[1], 'entry_id', identity,
        'attempts', '1', 'at', ARGV[2])
      dead = dead + 1
    end
  end
end
for i = 1, states do redis.call('SET', KEYS[2 + i], ARGV[3 + i]) end
return {added, dead, known}
