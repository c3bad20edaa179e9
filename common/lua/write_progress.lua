-- A backfill begins, or has ended.
-- KEYS: lease, progress    ARGV: lease holder, '1' to forget what was there, seconds to keep it ('0': for ever), then
-- pairs of field and value    Returns 1, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if ARGV[2] == '1' then redis.call('DEL', KEYS[2]) end
for i = 4, #ARGV, 2 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1]) end
if ARGV[3] ~= '0' then redis.call('EXPIRE', KEYS[2], ARGV[3]) end
return 1
