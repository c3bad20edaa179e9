-- A batch is fixed before it is sent: its manifest is written, if the writer still holds its lease.
-- KEYS: lease, manifests    ARGV: lease holder, token, manifest    Returns 1, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('HDEL', KEYS[2], ARGV[2]) -- needs no memory: after a first write, even a full Redis lets the script go on
redis.call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
