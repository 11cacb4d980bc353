-- Lua's tables, strings and closures. Prints what came out.

-- A generator of its own (xorshift, Marsaglia 2003): that of Lua changed between versions.
local state = 20240501
local function number(limit)
  state = state ~ (state << 13) & 0xffffffff
  state = state ~ state >> 17
  state = state ~ (state << 5) & 0xffffffff
  return state % limit + 1
end

local function word()
  local letters = {}
  for i = 1, 2 + number(8) do letters[i] = string.char(96 + number(16)) end
  return table.concat(letters)
end

local words = {}
for i = 1, 4000 do words[i] = word() end

-- Trees that live and die, one of them long-lived.
local function tree(depth)
  if depth == 0 then return {} end
  return { tree(depth - 1), tree(depth - 1) }
end
local function count(node)
  if not node[1] then return 1 end
  return 1 + count(node[1]) + count(node[2])
end
local sum = 0
local kept = tree(15)
for i = 1, 600 do sum = sum + count(tree(4 + i % 8)) end
sum = sum + count(kept)

-- Records that come and go.
local records = {}
for i = 1, 100000 do
  local name = words[number(4000)]
  local function upper() return name:upper() .. i end
  records[number(8000)] = { number = i, name = name, upper = upper, tags = { i, i + 1, i + 2 } }
  local other = records[number(8000)]
  if other then sum = sum + #other.upper() + #other.tags end
end

-- Texts: built, searched, replaced, sorted.
for _ = 1, 40 do
  local page = {}
  for i = 1, 6000 do page[i] = words[number(4000)] end
  local text = table.concat(page, " ")
  local changed, times = text:gsub("%f[%w]([a-d])(%w+)", "%2%1")
  local parts = {}
  for part in changed:gmatch("[^a]+") do parts[#parts + 1] = part end
  table.sort(parts)
  sum = sum + times + #parts + #table.concat(parts, ",")
end

print(sum)
