#!/usr/bin/env bash
# Joins the sections' lines into one JSON document: { "facts": [...], "ceilings": [...], ... }, one cell a line. In: the folder of results.
set -euo pipefail
echo "{"
first=1
for section in facts ceilings decode prefill model baselines tests; do
  file="$1/$section.jsonl"
  [ -s "$file" ] || continue
  [ $first = 1 ] || echo ","
  first=0
  # Whole lines only: a run that was killed may have left half a one.
  printf '"%s": [\n%s\n]' "$section" "$(grep -E '^\{.*\}$' "$file" | sed '$!s/$/,/')"
done
echo
echo "}"
