-- The manifests of a writer whose lease has run out become mine, so that the same rows are sent with the same tokens.
-- KEYS: dead writer's lease, dead writer's manifests, my lease, my manifests    ARGV: my lease holder
-- Returns how many were adopted, or -1 when my own lease is lost.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local manifests = redis.call('HGETALL', KEYS[2])
for i = 1, #manifests, 2 do redis.call('HSET', KEYS[4], manifests[i], manifests[i + 1]) end
redis.call('DEL', KEYS[2])
return #manifests / 2
