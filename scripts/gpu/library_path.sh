#!/usr/bin/env bash
# Where this machine has cuBLAS 13 or 12, if the loader does not know: the toolkit's folder, or PyTorch's. Out: one folder, or nothing.
set -uo pipefail
ldconfig -p 2> /dev/null | grep -q 'libcublas\.so\.1[23]' && exit 0
folders=(/usr/local/cuda/lib64 /usr/local/cuda-*/lib64 /usr/local/cuda*/targets/*/lib)
while IFS= read -r folder; do folders+=("$folder"); done < <(
  "${PYTHON:-python3}" -c 'import nvidia, os; [print(os.path.join(p, d, "lib")) for p in nvidia.__path__ for d in sorted(os.listdir(p))]' 2> /dev/null
)
for folder in "${folders[@]}"; do
  for file in "$folder"/libcublas.so.1[23]; do
    if [ -e "$file" ]; then
      echo "$folder"
      exit 0
    fi
  done
done
