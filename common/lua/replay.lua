-- Dead letters go back on their stream, each addressed to the group that refused it: the other groups had their copy.
-- Only what is still there goes, and it goes away in the same step, so that two replays at once move it once.
-- KEYS: dead letters, stream    ARGV: per letter: id, group    Returns the ids that went.
local moved = {}
for i = 1, #ARGV, 2 do
  local letter = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if letter then
    local data = ''
    for j = 1, #letter[2], 2 do if letter[2][j] == 'data' then data = letter[2][j + 1] end end
    redis.call('XADD', KEYS[2], '*', 'data', data, 'for', ARGV[i + 1]) -- first: a full Redis refuses it
    redis.call('XDEL', KEYS[1], ARGV[i])
    moved[#moved + 1] = ARGV[i]
  end
end
return moved
