-- A name that nobody holds becomes mine. DEL makes it a script that has begun to write, which even a full Redis lets go on.
-- KEYS: lease    ARGV: lease holder, milliseconds    Returns 1, or 0 when somebody holds it.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
