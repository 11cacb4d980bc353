-- For wrk: asks for all files of FOLDER in turn, and compares each answer with the file that begins as it does.
local COUNT = 12
local FIRST = 10  -- bytes of the smallest file
local files = {}
local threads = {}
local number = 0
right, wrong = 0, 0

function setup(thread) table.insert(threads, thread) end

function init(arguments)
  for i = 0, COUNT - 1 do
    local file = assert(io.open(arguments[1] .. "/" .. i .. ".txt", "rb"))
    local text = file:read("*a")
    files[text:sub(1, FIRST)] = text
    file:close()
  end
end

function request()
  number = number + 1
  return wrk.format("GET", (number % 3 == 0 and "/proxied/" or "/") .. number % COUNT .. ".txt")
end

function response(status, headers, body)
  if status == 200 and body == files[body:sub(1, FIRST)] then right = right + 1 else wrong = wrong + 1 end
end

function done(summary)
  local rights, wrongs = 0, 0
  for _, thread in ipairs(threads) do
    rights, wrongs = rights + thread:get("right"), wrongs + thread:get("wrong")
  end
  local errors = summary.errors
  print("right " .. rights .. " wrong " .. wrongs .. " errors " ..
        errors.connect + errors.read + errors.write + errors.status + errors.timeout)
end
