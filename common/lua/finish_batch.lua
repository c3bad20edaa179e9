-- ClickHouse has the rows: their entries are acknowledged and the manifest goes, in one step.
-- KEYS: lease, manifests, stream    ARGV: lease holder, token, group, entry ids separated by spaces
-- Returns how many were acknowledged, or -1 when the lease is lost.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local acknowledged, some = 0, {}
local function flush()
  if #some > 0 then acknowledged = acknowledged + redis.call('XACK', KEYS[3], ARGV[3], unpack(some)) end
  some = {}
end
for id in string.gmatch(ARGV[4], '%S+') do
  some[#some + 1] = id
  if #some == 1000 then flush() end -- unpack is limited by Lua's stack
end
flush()
redis.call('HDEL', KEYS[2], ARGV[2])
return acknowledged
