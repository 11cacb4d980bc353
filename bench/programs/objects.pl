# Perl's hashes, arrays, strings, sorting and regular expressions. Prints what came out.
use strict;
use warnings;

# A generator of its own (xorshift, Marsaglia 2003): that of Perl may change between versions.
my $state = 20240501;

sub number {
  $state ^= ($state << 13) & 0xffffffff;
  $state ^= $state >> 17;
  $state ^= ($state << 5) & 0xffffffff;
  return $state % shift;
}
sub word { join '', map { chr(97 + number(16)) } 1 .. 2 + number(8) }

my @words = map { word() } 1 .. 4000;
sub text { join ' ', map { $words[number(4000)] } 1 .. shift }

# Records that come and go, some kept: a hash of arrays and hashes each.
my @kept;
my $sum = 0;
for my $number (1 .. 16000) {
  my %record = (number => $number, body => text(20), tags => [map { $words[number(4000)] } 1 .. 10]);
  $record{parts}{ $words[number(4000)] } = [1 .. number(30)] for 1 .. 4;
  $kept[ number(3000) ] = \%record;
  my $other = $kept[ number(3000) ] or next;
  $sum += length($other->{body}) + keys %{ $other->{parts} };
}

# Words of long texts: split, changed, counted, sorted.
my %count;
for (1 .. 8) {
  my $page = text(15000);
  $count{$_}++ for split ' ', $page;
  $page =~ s/\b([a-d])(\w+)/$2$1/g;
  $sum += length join ',', sort { length $a <=> length $b or $a cmp $b } split /a/, $page;
}
my @top = (sort { $count{$b} <=> $count{$a} or $a cmp $b } keys %count)[0 .. 4];

# A string that grows by pieces, and one that is cut down again.
my $grown = '';
$grown .= word() . ';' for 1 .. 80000;
my $cuts = 0;
$cuts++ while $grown =~ s/^([^;]*;){50}//;

print "$sum $cuts @top @count{@top}\n";
