-- A row that ClickHouse refuses on its own goes to the dead letters, once, and its manifest goes.
-- KEYS: lease, manifests, stream, dead letters    ARGV: lease holder, token, group, id, data, reason, now
-- Returns dead letters written, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local pending = redis.call('XPENDING', KEYS[3], ARGV[3], ARGV[4], ARGV[4], 1)
local attempts = pending[1] and pending[1][4] or 0
local acknowledged = redis.call('XACK', KEYS[3], ARGV[3], ARGV[4])
if acknowledged == 1 then
  redis.call('XADD', KEYS[4], '*', 'data', ARGV[5], 'reason', ARGV[6], 'source_stream', KEYS[3], 'entry_id', ARGV[4],
    'attempts', attempts, 'at', ARGV[7], 'group', ARGV[3])
end
redis.call('HDEL', KEYS[2], ARGV[2])
return acknowledged
