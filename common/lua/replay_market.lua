-- A dead letter of Gamma that can be read by now becomes a market on its stream, unless another version of that market
-- was published since: that one is newer. The letter goes away in the same step. See publish_changed.lua.
-- KEYS: dead letters, stream, hash of remembered versions
-- ARGV: letter's id, market, its identity, its version, version remembered for the letter's fault, '1' to change nothing
-- Returns 'published', 'known' (the letter is dropped), 'gone' (by somebody else).
local call = redis.call
if #call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 'gone' end
local remembered = call('HGET', KEYS[3], ARGV[3])
local is_known = remembered and remembered ~= ARGV[5]
if ARGV[6] ~= '1' then
  if not is_known then
    call('XADD', KEYS[2], '*', 'data', ARGV[2])
    call('HSET', KEYS[3], ARGV[3], ARGV[4])
  end
  call('XDEL', KEYS[1], ARGV[1])
end
return is_known and 'known' or 'published'
