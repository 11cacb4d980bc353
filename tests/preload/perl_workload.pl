# Hashes, strings, regular expressions, closures, sorting, child processes and
# evals; prints checksums. Run by perl_test.py with and without the preload.
use strict;
use warnings;
use POSIX ();

alarm 60;
my $state = 1;
sub random_number { $state = ($state * 1103515245 + 12345) & 0x7fffffff; return $state % $_[0]; }
sub checksum { return unpack("%32C*", join("\0", @_)); }

my %table;
for my $i (1 .. 80000) {
    my $key = "key" . random_number(15000);
    if (random_number(3) == 0) { delete $table{$key} }
    else { $table{$key} = "v" x random_number(200) }
}
print "hash ", scalar(keys %table), " ", checksum(map { "$_=$table{$_}" } sort keys %table), "\n";

my $text = join(" ", map { join("", map { chr(97 + random_number(26)) } 1 .. 1 + random_number(10)) } 1 .. 20000);
my %count;
$count{$1}++ while $text =~ /\b([aeiou]\w{2,4})\b/g;
(my $changed = $text) =~ s/(\w+) (\w+)/$2 $1/g;
print "regex ", scalar(keys %count), " ", checksum($changed), "\n";

my @records = map { { id => $_, name => "n" x random_number(50), list => [1 .. random_number(20)] } } 1 .. 8000;
my @sorted = sort { length($a->{name}) <=> length($b->{name}) || $a->{id} <=> $b->{id} } @records;
print "sort ", checksum(map { $_->{id} } @sorted), "\n";

my @closures = map { my $n = $_; sub { return $n * shift } } 1 .. 2000;
my $sum = 0;
$sum += $_->(3) for @closures;
print "closures $sum\n";

my $grown = "";
for my $i (1 .. 20000) {
    $grown .= chr(65 + $i % 26) x ($i % 60);
    substr($grown, 0, 1000, "") if length($grown) > 300000;
}
print "string ", length($grown), " ", checksum($grown), "\n";

for my $round (1 .. 200) {
    my $cycle = {};
    $cycle->{data} = [map { "x" x $_ } 1 .. 100];
    eval { die { code => $round, cycle => $cycle } };
    print "eval ", $@->{code}, "\n" if $round % 100 == 0;
}

for my $number (1 .. 20) {
    my $child = fork();
    die "fork: $!" unless defined $child;
    if ($child == 0) {
        my @data = map { "d" x ($_ % 300) } 1 .. 3000;
        %table = ();
        POSIX::_exit(scalar(@data) == 3000 ? $number : 99);
    }
    waitpid($child, 0);
    print "child ", $? >> 8, "\n";
}
print "command ", `echo from a shell | tr a-z A-Z`;
exit 17;
