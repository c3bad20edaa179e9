-- Source to stream, for markets: what changed goes out, and the sweep's state moves, in one step or not at all.
-- KEYS: stream, dead letters, hash of counts of unreadable fields, key of the state that is expected,
--       one key per state item, one hash of remembered versions per offer
-- ARGV: source, now, name of the expected state or '', its value or '' for none, number of state items, their values,
--       then per offer: identity, version, data, fault, names of its unreadable fields separated by spaces
-- Returns {added, dead, known}; {-1, 0, 0}, and nothing happens, where the state is not the expected one.
if ARGV[3] ~= '' and (redis.call('GET', KEYS[4]) or '') ~= ARGV[4] then return {-1, 0, 0} end
local states = tonumber(ARGV[5])
local added, dead, known = 0, 0, 0
local offer = 0
for i = 6 + states, #ARGV, 5 do
  offer = offer + 1
  local versions, identity, version, data, fault = KEYS[4 + states + offer], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('HGET', versions, identity) == version then
    known = known + 1
  else
    redis.call('HSET', versions, identity, version)
    if fault == '' then
      redis.call('XADD', KEYS[1], '*', 'data', data)
      for field in string.gmatch(ARGV[i + 4], '%S+') do redis.call('HINCRBY', KEYS[3], field, 1) end
      added = added + 1
    else
      redis.call('XADD', KEYS[2], '*', 'data', data, 'reason', fault, 'source_stream', ARGV[1], 'entry_id', identity,
        'attempts', '1', 'at', ARGV[2])
      dead = dead + 1
    end
  end
end
for i = 1, states do redis.call('SET', KEYS[4 + i], ARGV[5 + i]) end
return {added, dead, known}
