-- Source to stream, for fills: what was not seen before goes out, and the cursor moves, in one step or not at all.
-- KEYS: stream, dead letters, seen (sorted set: identity by event time), cursor's time, cursor's id, floor
-- Time is Unix seconds; for a source of blocks it is the block's number, and the id is the block's time.
-- ARGV: position's time, position's id, window in seconds, source, now, time and id of what the caller knows to be
-- published ('' if nothing), the offers' times separated by spaces, number of faults, then per fault: place of its offer,
-- reason; then per offer: identity, data
-- Returns {added, dead, known}, or {-1, 0, 0} when Redis has forgotten what was published: the pages in between are lost.
local position_time, position_id, window = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local cursor_time = tonumber(redis.call('GET', KEYS[4]) or '-1')
local cursor_id = redis.call('GET', KEYS[5]) or ''
local known_time, known_id = tonumber(ARGV[6] ~= '' and ARGV[6] or '-1'), ARGV[7]
if known_time > cursor_time or (known_time == cursor_time and known_id > cursor_id) then return {-1, 0, 0} end
-- Nothing is read again from before the window, so what is older was published when the cursor passed it. The floor never
-- falls: what was seen there is forgotten, also when the window is made longer later.
local floor = math.max(tonumber(redis.call('GET', KEYS[6]) or '-1'), cursor_time - window)
local added, dead, known = 0, 0, 0
local times, faults = {}, {}
for time in string.gmatch(ARGV[8], '%S+') do times[#times + 1] = time end
local offers = 10 + 2 * tonumber(ARGV[9]) -- where they begin
for i = 10, offers - 2, 2 do faults[tonumber(ARGV[i])] = ARGV[i + 1] end
local here = {}
local function publish(from, to)
  local identities, remember, count = {}, {}, 0
  for place = from, to do identities[place - from + 1] = ARGV[offers + 2 * place - 2] end
  local seen = redis.call('ZMSCORE', KEYS[3], unpack(identities))
  for place = from, to do
    local identity, time, fault = identities[place - from + 1], times[place], faults[place]
    if fault and time == '0' then time = math.max(position_time, cursor_time) end
    if seen[place - from + 1] or here[identity] or tonumber(time) < floor then
      known = known + 1
    else
      here[identity] = true
      remember[count + 1], remember[count + 2], count = time, identity, count + 2
      local data = ARGV[offers + 2 * place - 1]
      if fault then
        redis.call('XADD', KEYS[2], '*', 'data', data, 'reason', fault, 'source_stream', ARGV[4], 'entry_id', identity,
          'attempts', '1', 'at', ARGV[5])
        dead = dead + 1
      else
        redis.call('XADD', KEYS[1], '*', 'data', data)
        added = added + 1
      end
    end
  end
  if count > 0 then redis.call('ZADD', KEYS[3], unpack(remember)) end
end
-- A thousand at a time, which Lua's stack allows: looked up and remembered by one command, half the cost of one each.
for from = 1, #times, 1000 do publish(from, math.min(from + 999, #times)) end
if position_time > cursor_time or (position_time == cursor_time and position_id > cursor_id) then
  redis.call('SET', KEYS[4], ARGV[1])
  redis.call('SET', KEYS[5], position_id)
  cursor_time = position_time
end
floor = math.max(floor, cursor_time - window)
redis.call('SET', KEYS[6], floor)
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. floor)
return {added, dead, known}
