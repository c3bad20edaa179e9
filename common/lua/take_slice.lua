-- The next slice of a backfill: the frontier moves over it, and it is open from now on.
-- KEYS: lease, progress    ARGV: lease holder, expected frontier, next frontier, slice's field, its first cursor
-- Returns 1, 0 when the frontier is elsewhere: read the progress again; -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
if redis.call('HGET', KEYS[2], 'frontier') ~= ARGV[2] then return 0 end
redis.call('HSET', KEYS[2], 'frontier', ARGV[3], ARGV[4], ARGV[5])
return 1
