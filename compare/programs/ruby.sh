# Strings, hashes and arrays; the objects themselves are in Ruby's own heap, what they hold in malloc's.
# needs: ruby
# process: ruby
prepare() {
    cat >work.rb <<RB
$WORK.times do
  rows = (1..80_000).map { |i| { id: i, name: "item number #{i} of a list", tags: ['x' * (i % 60), i.to_s * 8] } }
  index = rows.group_by { |row| row[:id] % 997 }
  text = rows.map { |row| row[:name] + row[:tags].join(',') }.join("\n")
  raise unless text.split("\n").map(&:upcase).tally.size > 1000 && index.size == 997
end
RB
}
run() { peer ruby work.rb; }
