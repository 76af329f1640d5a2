#!/usr/bin/env bash
# Joins the sections' lines into one JSON document: { "facts": [...], "ceilings": [...], ... }, one cell a line; of a cell measured twice the later
# one. In: the folder of results. Out: FOLDER/gpu.json, whole at every moment.
set -euo pipefail
part=$(mktemp "$1/.gpu-XXXXXX")
trap 'rm -f "$part"' EXIT
{
  echo "{"
  printf '"build": [\n{"cell":"build","sources":"%s"}\n]' "$(cat "$1/build" 2> /dev/null || true)"
  for section in facts tests ceilings decode model prefill first products draws memory soak baselines; do
    file="$1/$section.jsonl"
    [ -s "$file" ] || continue
    # Whole lines only: a run that was killed may have left half a one.
    lines=$(grep -aE '^\{"cell":".*\}$' "$file" | tac | awk -F'"' '!seen[$4]++' | tac | sed '$!s/$/,/' || true)
    [ -n "$lines" ] || continue
    printf ',\n"%s": [\n%s\n]' "$section" "$lines"
  done
  echo
  echo "}"
} > "$part"
chmod 644 "$part"
mv "$part" "$1/gpu.json"
