-- Marks and entries of a log as they are at one moment. Writes nothing.
-- KEYS: 1 log  2 marks
-- ARGV: 1 id of an entry that was read, or ''  2 its origin  3 its number
-- Entries from behind that one when it is still the same entry (another primary may have given its id away), else all.
-- -> {{origin, number ':' digest, …}, {{id, {'o', origin, 'q', number, 'p', digest..bytes}}, …}}
if redis.call('EXISTS',KEYS[1])~=redis.call('EXISTS',KEYS[2]) then return {{},{}} end
local from='-'
if ARGV[1]~='' then
  local at=redis.call('XRANGE',KEYS[1],ARGV[1],ARGV[1])
  if at[1] and at[1][2][2]==ARGV[2] and at[1][2][4]==ARGV[3] then from='('..ARGV[1] end
end
return {redis.call('HGETALL',KEYS[2]),redis.call('XRANGE',KEYS[1],from,'+')}
