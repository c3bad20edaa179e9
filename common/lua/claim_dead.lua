-- The entries of a consumer whose lease has run out become mine; a dead consumer without entries is forgotten.
-- KEYS: stream, dead consumer's lease, dead consumer's manifests (adopted first, by a writer), counter of lost entries
-- ARGV: group, dead consumer, my consumer, count
-- Returns the entries, and how many of the claimed ids no longer exist in the stream.
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('HLEN', KEYS[3]) > 0 then return {{}, 0} end
local pending = redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[4], ARGV[2])
if #pending == 0 then
  redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[2])
  return {{}, 0}
end
local claim = {'XCLAIM', KEYS[1], ARGV[1], ARGV[3], '0'}
for _, entry in ipairs(pending) do claim[#claim + 1] = entry[1] end
local entries = redis.call(unpack(claim))
local lost = #pending - #entries
if lost > 0 then redis.call('HINCRBY', KEYS[4], KEYS[1] .. ' ' .. ARGV[1], lost) end
return {entries, lost}
