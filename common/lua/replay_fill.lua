-- A source's dead letter that can be read by now becomes a fill on its stream, unless the source has published that fill
-- meanwhile. The letter goes away in the same step, so that two replays at once move it once. From the floor on, the
-- seen-set shows what was published: see publish_new.lua. Below it, ClickHouse does; its answer counts only if it was
-- given after everything from below that place had been published, and while no backfill of the source can publish.
-- KEYS: dead letters, stream, seen, cursor's time, floor, lease of the source's backfills
-- ARGV: letter's id, fill, SHA-256 of its identity, its time or block, window, '1' to change nothing,
-- lease holder ('' where ClickHouse was not asked), floor before ClickHouse was asked, '1' if ClickHouse has the fill
-- Returns 'published', 'known' (the letter is dropped), 'gone' (by somebody else), 'older' (ask ClickHouse, again).
local call, is_dry = redis.call, ARGV[6] == '1'
local place, window = tonumber(ARGV[4]), tonumber(ARGV[5])
if #call('XRANGE', KEYS[1], ARGV[1], ARGV[1]) == 0 then return 'gone' end
local floor = math.max(tonumber(call('GET', KEYS[5]) or '-1'), tonumber(call('GET', KEYS[4]) or '-1') - window)
local is_known
if place >= floor then
  is_known = call('ZSCORE', KEYS[3], ARGV[3])
elseif is_dry and ARGV[9] ~= '' then
  is_known = ARGV[9] == '1'
elseif ARGV[7] == '' or call('GET', KEYS[6]) ~= ARGV[7] or place >= tonumber(ARGV[8]) then
  return 'older'
else
  is_known = ARGV[9] == '1'
end
if not is_dry then
  if not is_known then
    call('XADD', KEYS[2], '*', 'data', ARGV[2]) -- first: a full Redis refuses it
    if place >= floor then call('ZADD', KEYS[3], ARGV[4], ARGV[3]) end
  end
  call('XDEL', KEYS[1], ARGV[1])
end
return is_known and 'known' or 'published'
