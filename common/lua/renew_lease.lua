-- KEYS: lease    ARGV: lease holder, milliseconds, '1' to renew or '0' to give it up    Returns 1, or 0 when it is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[3] == '1' then return redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return redis.call('DEL', KEYS[1])
