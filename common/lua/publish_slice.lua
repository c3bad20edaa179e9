-- Source to stream, for a backfill: a page's new fills go out, its slice's cursor moves, and both are counted; in one
-- step or not at all. Nothing happens when another backfill holds the lease, or when the cursor is not where the caller
-- believes it to be: then the page has been published, by this call's lost reply or by whoever came after.
-- KEYS: lease, progress, stream, dead letters, faults that were published before (set)
-- ARGV: lease holder, slice's field, expected cursor, next cursor ('' when the slice is done), source, now,
-- number of hours, number of faults, per hour: field, published, known, first time, last time (0: none), per fault:
-- place of its hour, identity, data, reason; then the data of each new fill
-- Returns 1, 0 when the page was published before, -1 when the lease is lost, -2 when the cursor is elsewhere.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local cursor = redis.call('HGET', KEYS[2], ARGV[2]) or ''
if cursor == ARGV[4] then return 0 end
if cursor ~= ARGV[3] then return -2 end
local hours, faults = tonumber(ARGV[7]), tonumber(ARGV[8])
local first_fault = 9 + 5 * hours
local first_fill = first_fault + 4 * faults
for i = first_fill, #ARGV do redis.call('XADD', KEYS[3], '*', 'data', ARGV[i]) end
local dead = {}
for i = first_fault, first_fill - 1, 4 do
  local hour, identity, data, reason = tonumber(ARGV[i]), ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if redis.call('SADD', KEYS[5], identity) == 1 then
    redis.call('XADD', KEYS[4], '*', 'data', data, 'reason', reason, 'source_stream', ARGV[5], 'entry_id', identity,
      'attempts', '1', 'at', ARGV[6])
    dead[hour] = (dead[hour] or 0) + 1
  end
end
local shape = 'published=(%d+) known=(%d+) dead=(%d+) first=(%d+) last=(%d+)'
for hour = 1, hours do
  local place = 9 + 5 * (hour - 1)
  local field, new_first, new_last = ARGV[place], tonumber(ARGV[place + 3]), tonumber(ARGV[place + 4])
  local published, known, buried, first, last = string.match(redis.call('HGET', KEYS[2], field) or '', shape)
  first = tonumber(first or '0')
  if first == 0 or (new_first > 0 and new_first < first) then first = new_first end
  redis.call('HSET', KEYS[2], field, string.format('published=%d known=%d dead=%d first=%d last=%d',
    tonumber(published or '0') + tonumber(ARGV[place + 1]), tonumber(known or '0') + tonumber(ARGV[place + 2]),
    tonumber(buried or '0') + (dead[hour] or 0), first, math.max(tonumber(last or '0'), new_last)))
end
if ARGV[4] == '' then redis.call('HDEL', KEYS[2], ARGV[2]) else redis.call('HSET', KEYS[2], ARGV[2], ARGV[4]) end
return 1
