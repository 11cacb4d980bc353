# A run through much of Ruby; prints digests that depend on every step.
require 'digest'
require 'json'
require 'zlib'

def digest(value)
  Digest::SHA256.hexdigest(Marshal.dump(value))[0, 16]
end

def containers
  source = Random.new(1)
  table = {}
  60_000.times do
    key = "key#{source.rand(20_000)}"
    source.rand < 0.3 ? table.delete(key) : table[key] = [source.rand] * source.rand(30)
  end
  struct = Struct.new(:name, :values)
  records = table.map { |key, values| struct.new(key, values) }
  [table.size, records.sum { |record| record.values.size }, digest(table.keys.sort.first(500))]
end

def texts
  source = Random.new(2)
  words = Array.new(20_000) { Array.new(1 + source.rand(11)) { (97 + source.rand(10)).chr }.join }
  text = words.join(' ')
  found = text.scan(/\b(a[b-f]+)(?:\s+(\w{3,5}))?/)
  data = { 'words' => words.first(5000), 'nested' => Array.new(3000) { |i| { 'n' => i, 's' => i.to_s * (i % 50) } } }
  raise 'JSON' unless JSON.parse(JSON.pretty_generate(data)) == data
  packed = Zlib::Deflate.deflate(text)
  raise 'zlib' unless Zlib::Inflate.inflate(packed) == text
  lengths = words.group_by(&:size).transform_values(&:size).sort
  [found.size, packed.size, digest(text.gsub(/(\w)(\w)\b/, '\2\1')), lengths]
end

def numbers
  [digest((1..2000).inject(:*)), digest(3**20_000 % 10**500), (1..800).map { |i| Rational(1, i) }.sum.hash.class]
end

# Symbols, strings and arrays of all ages, a heap that is compacted, blocks that are moved.
def collections
  kept = []
  40.times do |round|
    kept << Array.new(2000) { |i| "#{round} #{i}" * (i % 20) }
    kept.map! { |part| part.each_slice(2).map(&:first) } if round % 7 == 6
    GC.start(full_mark: round.even?) if round % 5 == 0
    GC.compact if round % 20 == 19 && GC.respond_to?(:compact)
  end
  digest(kept)
end

def threads
  work = Queue.new
  300.times { |item| work << item }
  results = Array.new(6) do
    Thread.new do
      found = {}
      until work.empty?
        item = work.pop(true) rescue break
        found[item] = digest(Array.new(300) { |i| (i * item).to_s }.sort)
      end
      found
    end
  end.map(&:value).reduce({}, :merge)
  200.times { Thread.new { Array.new(200) { |i| 'x' * i } }.join }
  fibers = Array.new(500) { |i| Fiber.new { 3.times { Fiber.yield('f' * i) } } }
  [digest(results.sort), digest(fibers.map { |fiber| [fiber.resume, fiber.resume] })]
end

def processes
  statuses = Array.new(8) do |i|
    pid = fork { exit!(Array.new(10_000, &:to_s).size % 100 + i) }
    Process.wait2(pid)[1].exitstatus
  end
  sorted = IO.popen(['sort', '-n'], 'r+') do |io|
    io.puts((1..2000).to_a.reverse)
    io.close_write
    digest(io.read)
  end
  [statuses, `echo from a shell`, sorted]
end

%i[containers texts numbers collections threads processes].each { |step| puts "#{step} #{send(step).inspect}" }
at_exit { puts "at the exit #{'x' * 100_000}".size }
exit 19
