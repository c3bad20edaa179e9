-- A refused batch becomes two, each with a manifest of its own, in one step.
-- KEYS: lease, manifests    ARGV: lease holder, token, token, manifest, token, manifest    Returns 1, or -1: lease lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
redis.call('HDEL', KEYS[2], ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return 1
