# Perl: hashes, strings, regular expressions, sorting, children and threads, as without the library.
cat >work.pl <<'PL'
use strict; use warnings; use threads; use Digest::SHA qw(sha256_hex);
sub work {
    my ($seed) = @_;
    my ($state, %count, @list) = ($seed);
    for my $i (1 .. 60_000) {
        $state = ($state * 1103515245 + 12345) % 2147483648;
        my $key = join "", map { chr(97 + ($state >> $_) % 26) } 0 .. $state % 12;
        $count{$key}++;
        push @list, [$i, $key x ($state % 5)] if $state % 3 == 0;
        splice @list, $state % @list, 1 if @list && $state % 4 == 0;
        delete $count{$key} if $state % 11 == 0;
    }
    my $text = join ",", map { "$_=$count{$_}" } sort keys %count;
    (my $other = $text) =~ s/([a-m]+)=(\d+)/$2:\U$1/g;
    @list = sort { $a->[1] cmp $b->[1] || $a->[0] <=> $b->[0] } @list;
    return sha256_hex(join ";", $text, $other, map { "@$_" } @list);
}
print work(1), "\n";
my @children;
for my $seed (2 .. 4) {
    my $pid = open(my $pipe, "-|") // die "fork: $!";
    if (!$pid) { print work($seed), "\n"; exit 0 }
    push @children, $pipe;
}
print readline $_ for @children;
my @threads = map { my $seed = $_; threads->create(sub { work($seed) }) } 5 .. 8;
print $_->join, "\n" for @threads;
PL
served perl -e 1
perl work.pl >expected &
preloaded perl work.pl >found
wait $!
same found expected
[ "$(wc -l <found)" = 8 ] || fail "not eight lines"
