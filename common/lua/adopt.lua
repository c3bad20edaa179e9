-- The manifests of a writer whose lease has run out become mine, so that the same rows are sent with the same tokens.
-- Their entries become mine in the same step: once the manifests are gone, any writer may claim what is left.
-- KEYS: dead writer's lease, dead writer's manifests, my lease, my manifests, then the streams
-- ARGV: my lease holder, my consumer, then per stream: its table, its group
-- Returns how many were adopted, or -1 when my own lease is lost.
if redis.call('GET', KEYS[3]) ~= ARGV[1] then return -1 end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local routes = {}
for i = 3, #ARGV, 2 do routes[ARGV[i]] = {KEYS[4 + (i - 1) / 2], ARGV[i + 1]} end
local function claim(manifest)
  local table_name = string.match(manifest, '^%S+')
  local stream, group = unpack(routes[table_name])
  local some = {}
  local function flush()
    if #some == 0 then return end
    some[#some + 1] = 'JUSTID'
    redis.call('XCLAIM', stream, group, ARGV[2], '0', unpack(some))
    some = {}
  end
  for id in string.gmatch(string.sub(manifest, #table_name + 1), '%S+') do
    some[#some + 1] = id
    if #some == 1000 then flush() end -- unpack is limited by Lua's stack
  end
  flush()
end
local manifests = redis.call('HGETALL', KEYS[2])
for i = 1, #manifests, 2 do
  claim(manifests[i + 1])
  redis.call('HSET', KEYS[4], manifests[i], manifests[i + 1])
end
redis.call('DEL', KEYS[2])
return #manifests / 2
