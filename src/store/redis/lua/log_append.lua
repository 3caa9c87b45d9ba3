-- Appends a run of one origin's entries: each enters once, in order, without a hole.
-- KEYS: 1 log (stream of o, q, p)  2 marks (hash: origin -> highest number ':' digest of that entry)
-- ARGV: 1 origin  2 number of the first entry  3 oldest number the caller could supply  4 entries kept
--       5 goes then, ms since the epoch  then entries, each 8 digits of its digest and its bytes
-- The two keys are made, expire and go together; where one is alone both count as gone and every holder refills them.
-- Of an ended session there is a mark '~' alone (log_end): nothing is appended, as if all of it were there.
-- -> {'OK'|'DUP'|'GAP'|'FORK', highest number}
local o=ARGV[1]
local q=tonumber(ARGV[2])
local n=#ARGV-5
local marks=redis.call('HMGET',KEYS[2],'~',o)
if marks[1] then return {'DUP',math.max(q+n-1,0)} end
local m=marks[2]
local there=m and 1 or redis.call('EXISTS',KEYS[2])
local torn=redis.call('EXISTS',KEYS[1])~=there
if torn then m=false end
local hw,crc=0,''
if m then
  local c=string.find(m,':',1,true)
  hw=tonumber(string.sub(m,1,c-1)); crc=string.sub(m,c+1)
end
-- What is older than the oldest number that a caller can supply is trimmed everywhere: the hole stays, and readers see it.
if m and q>hw+1 and q>tonumber(ARGV[3]) then return {'GAP',hw} end
if not m and q>tonumber(ARGV[3]) then return {'GAP',tonumber(ARGV[3])-1} end
local i=1
if m and q<=hw then
  local last=ARGV[5+hw-q+1]
  if last and string.sub(last,1,8)~=crc then return {'FORK',hw} end
  i=hw-q+2
  if i>n then return {'DUP',hw} end
end
if n<1 then return {'DUP',hw} end
local number
while i<=n do
  local p=ARGV[5+i]
  crc=string.sub(p,1,8); hw=q+i-1; number=string.format('%.0f',hw)
  -- The first write is one that a full Redis refuses; of a torn log it also removes what was left.
  redis.call('XADD',KEYS[1],'MAXLEN',torn and '1' or ARGV[4],'*','o',o,'q',number,'p',p)
  if torn then redis.call('DEL',KEYS[2]); torn=false end
  i=i+1
end
redis.call('HSET',KEYS[2],o,number..':'..crc)
redis.call('PEXPIREAT',KEYS[1],ARGV[5])
redis.call('PEXPIREAT',KEYS[2],ARGV[5])
return {'OK',hw}
