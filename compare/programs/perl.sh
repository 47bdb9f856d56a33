# Hashes, lists, strings and regular expressions.
# needs: perl
# process: perl
prepare() {
    cat >work.pl <<PL
use strict;
for my \$turn (1 .. $WORK) {
    my (%count, @rows);
    for my \$i (1 .. 120000) {
        push @rows, { id => \$i, name => "item \$i", tags => [\$i % 7, 'x' x (\$i % 40)] };
        \$count{'key' . \$i % 5000} .= chr(97 + \$i % 26);
    }
    my \$text = join ',', map { \$_->{name} } grep { \$_->{id} % 3 } @rows;
    my \$found = () = \$text =~ /item (\d+)7/g;
    my @sorted = sort { \$a->{name} cmp \$b->{name} } @rows;
    die unless \$found && @sorted == 120000;
}
PL
}
run() { PERL_HASH_SEED=0 peer perl work.pl; }
