-- Source to stream, for fills: what was not seen before goes out, and the cursor moves, in one step or not at all.
-- KEYS: stream, dead letters, seen (sorted set: SHA-256 of the identity, by event time), cursor's time, cursor's id, floor
-- Time is Unix seconds; for a source of blocks it is the block's number, and the id is the block's time.
-- ARGV: position's time, position's id, window in seconds, source, now, time and id of what the caller knows to be
-- published ('' if nothing), the offers' times separated by spaces, their identities' SHA-256 one after the other, number
-- of faults, then per fault: place of its offer, identity, reason; then per offer: data
-- Returns {added, dead, known}, or {-1, 0, 0} when Redis has forgotten what was published: the pages in between are lost.
local DIGEST = 32 -- bytes of a SHA-256
local call, sub = redis.call, string.sub -- looked up once, not for each offer
local position_time, position_id, window = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local cursor_time = tonumber(call('GET', KEYS[4]) or '-1')
local cursor_id = call('GET', KEYS[5]) or ''
local known_time, known_id = tonumber(ARGV[6] ~= '' and ARGV[6] or '-1'), ARGV[7]
if known_time > cursor_time or (known_time == cursor_time and known_id > cursor_id) then return {-1, 0, 0} end
-- Nothing is read again from before the window, so what is older was published when the cursor passed it. The floor never
-- falls: what was seen there is forgotten, also when the window is made longer later.
local floor = math.max(tonumber(call('GET', KEYS[6]) or '-1'), cursor_time - window)
local added, dead, known = 0, 0, 0
local times, faults = {}, {}
for time in string.gmatch(ARGV[8], '%S+') do times[#times + 1] = time end
local digests, first_offer = ARGV[9], 11 + 3 * tonumber(ARGV[10]) -- the first offer's place
for i = 11, first_offer - 1, 3 do faults[tonumber(ARGV[i])] = {identity = ARGV[i + 1], reason = ARGV[i + 2]} end
local here = {}
local function publish(from, to)
  local asked, remember, count = {}, {}, 0
  for place = from, to do asked[place - from + 1] = sub(digests, DIGEST * (place - 1) + 1, DIGEST * place) end
  local seen = call('ZMSCORE', KEYS[3], unpack(asked))
  for place = from, to do
    local digest, time, fault = asked[place - from + 1], times[place], faults[place]
    if fault and time == '0' then time = math.max(position_time, cursor_time) end
    if seen[place - from + 1] or here[digest] or tonumber(time) < floor then
      known = known + 1
    else
      here[digest] = true
      remember[count + 1], remember[count + 2], count = time, digest, count + 2
      local data = ARGV[first_offer + place - 1]
      if fault then
        call('XADD', KEYS[2], '*', 'data', data, 'reason', fault.reason, 'source_stream', ARGV[4], 'entry_id',
          fault.identity, 'attempts', '1', 'at', ARGV[5])
        dead = dead + 1
      else
        call('XADD', KEYS[1], '*', 'data', data)
        added = added + 1
      end
    end
  end
  if count > 0 then call('ZADD', KEYS[3], unpack(remember)) end
end
-- A thousand at a time, which Lua's stack allows: looked up and remembered by one command, half the cost of one each.
for from = 1, #times, 1000 do publish(from, math.min(from + 999, #times)) end
if position_time > cursor_time or (position_time == cursor_time and position_id > cursor_id) then
  call('SET', KEYS[4], ARGV[1])
  call('SET', KEYS[5], position_id)
  cursor_time = position_time
end
floor = math.max(floor, cursor_time - window)
call('SET', KEYS[6], floor)
call('ZREMRANGEBYSCORE', KEYS[3], '-inf', '(' .. floor)
return {added, dead, known}
