-- Dead letters are removed.
-- KEYS: dead letters    ARGV: ids    Returns the ids that were there.
local removed = {}
for _, id in ipairs(ARGV) do
  if redis.call('XDEL', KEYS[1], id) == 1 then removed[#removed + 1] = id end
end
return removed
