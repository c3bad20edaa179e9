-- Tokens to look up. A full Redis refuses SADD, yet lets a script that has begun to write go on: fills that wait for
-- their market must not keep the others from being finished, which is what makes room again.
-- KEYS: unknown tokens    ARGV: token ids
redis.call('SREM', KEYS[1], ARGV[1])
for i = 1, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
return #ARGV
