-- Joins fields into a document: idempotent, commutative, associative. One key, so that a slot on the move never
-- answers TRYAGAIN.
-- KEYS: 1 document (hash: field -> stamp..value)
-- ARGV: 1 how far a stamp may be ahead, ms  2 idle, ms  3 deadline, ms since the epoch  then field, stamp, value …
-- '~t': the end, earliest wins, wipes all else.  '~s': the last use; without use for `idle` the document goes.
-- -> {'OK'|'DEAD', news, {field, stamp..value, …}} | {'SKEW', now} | {'FORK', field} | {'BADSTAMP', field}
local k=KEYS[1]
local t=redis.call('TIME')
local now=t[1]*1000+math.floor(t[2]/1000)
-- Everything is looked at before anything is written: what a script wrote stays when it fails.
for i=4,#ARGV,3 do
  local st=ARGV[i+1]
  if #st~=26 or string.find(st,'[^0-9a-f]') then return {'BADSTAMP',ARGV[i]} end
  if tonumber(string.sub(st,1,12),16)>now+tonumber(ARGV[1]) then return {'SKEW',string.format('%.0f',now)} end
end
local dead=redis.call('HGET',k,'~t')
local killed,new,n=false,{},0
for i=4,#ARGV,3 do
  local f,st,v=ARGV[i],ARGV[i+1],ARGV[i+2]
  if f=='~t' then
    if not dead or st<string.sub(dead,1,26) then dead=st..v; killed=true end
  elseif not dead then
    local cur=new[f] or redis.call('HGET',k,f)
    if not cur or st>string.sub(cur,1,26) then
      if not new[f] then n=n+1 end
      new[f]=st..v
    elseif st==string.sub(cur,1,26) and string.sub(cur,27)~=v then
      return {'FORK',f}
    end
  end
end
if dead then
  n=0
  -- The first write is one that a full Redis refuses, so that all of it happens or nothing.
  if killed then redis.call('HSET',k,'~t',dead); n=1 end
  if redis.call('HLEN',k)>1 then
    for _,f in ipairs(redis.call('HKEYS',k)) do if f~='~t' then redis.call('HDEL',k,f) end end
  end
else
  local batch={}
  for f,v in pairs(new) do
    batch[#batch+1]=f; batch[#batch+1]=v
    if #batch==1000 then redis.call('HSET',k,unpack(batch)); batch={} end
  end
  if #batch>0 then redis.call('HSET',k,unpack(batch)) end
end
local all=redis.call('HGETALL',k)
local goes=tonumber(ARGV[3])
if not dead then
  -- From its last use, not from now: a copy that is offered again must not keep an idle session alive.
  local seen=redis.call('HGET',k,'~s')
  local base=seen and tonumber(string.sub(seen,1,12),16) or now
  goes=math.min(goes,base+tonumber(ARGV[2]))
end
redis.call('PEXPIREAT',k,string.format('%.0f',goes+60000))
return {dead and 'DEAD' or 'OK',n,all}
