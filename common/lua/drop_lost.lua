-- Pending entries that are gone from the stream: nobody can process them, so they are acknowledged and counted.
-- KEYS: stream, counter of lost entries    ARGV: group, then ids
local acknowledged = 0
for i = 2, #ARGV do acknowledged = acknowledged + redis.call('XACK', KEYS[1], ARGV[1], ARGV[i]) end
redis.call('HINCRBY', KEYS[2], KEYS[1] .. ' ' .. ARGV[1], acknowledged)
return acknowledged
