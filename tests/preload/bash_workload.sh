# 200 short children, pipelines, subshells, command substitution, arrays, traps.
# Run by bash_test.py with and without the preload.
set -u
trap 'echo trapped' USR1
kill -USR1 $$
declare -A table
total=0
for ((i = 1; i <= 200; i++)); do
  value=$(expr "$i" '*' 3)
  total=$((total + value))
  table[$((i % 37))]+="$value "
done
echo "total $total"
for key in "${!table[@]}"; do echo "$key ${#table[$key]}"; done | sort -n | md5sum
for ((i = 0; i < 20; i++)); do
  (echo "subshell $i"; exit "$i")
  echo "status $?"
done
seq 1 20000 | awk '{ s[$1 % 100] = s[$1 % 100] $1 } END { for (k in s) print k, length(s[k]) }' | sort -n | tail -3
seq 1 30000 | sort -R --random-source=/dev/zero | sort -n | uniq | wc -l
printf '%s\n' {a..z}{0..99} | sed 's/\([a-z]\)\([0-9]*\)/\2\1/' | grep -c '^[0-9]*[aeiou]$'
text=""
for ((i = 0; i < 3000; i++)); do text+="part $i "; done
echo "${#text} ${text//part/whole}" | cksum
yes | head -1
echo "pipe statuses ${PIPESTATUS[*]}"
tar -cf - --mtime=@0 --owner=0 --group=0 --sort=name -C / etc/passwd 2>/dev/null | tar -tf -
sleep 0.1 &
wait $!
echo "background $?"
/bin/false
echo "false $?"
cat /does/not/exist
exit 23
