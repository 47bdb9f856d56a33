# Tables, closures and strings.
# needs: lua5.4
# process: lua5.4
prepare() {
    cat >work.lua <<LUA
local function tree(depth)
  if depth == 0 then return {} end
  return {tree(depth - 1), tree(depth - 1)}
end
for turn = 1, $WORK do
  for i = 1, 4 do tree(15) end
  local names, parts = {}, {}
  for i = 1, 150000 do names['key' .. i % 5000] = {i, function() return i end} end
  for i = 1, 100000 do parts[#parts + 1] = string.format('%d:%x', i, i * 7919) end
  assert(#table.concat(parts, ',') > 1000000)
end
LUA
}
run() { peer lua5.4 work.lua; }
