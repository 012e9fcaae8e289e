#!/bin/sh
# A checkpoint on a Slurm cluster: an array of tasks, and a job that finishes when all of them are done. Run it on a login
# node, from a folder that all nodes share:
#
#     sh deploy/slurm.sh my-model my-model-nf4 --format nf4 --shard-size 2GB
#
# TASKS is how many tasks there are (16 unless it is set). More than the output has files are of no use: `wgquant quantize …
# --dry-run` says how many those are. A task that fails, or whose node is lost, is run again by itself: sbatch --array=7
# does task 7 anew, and what it had finished stays. `wgquant finish` names the parts that are missing.
set -eu
if [ $# -lt 2 ]; then
    echo "usage: sh $0 INPUT OUTPUT [OPTIONS OF wgquant quantize]" >&2
    exit 2
fi
input=$1 output=$2
shift 2
tasks=${TASKS:-16}

# What follows is quoted once more, as it is read again by the job's own shell.
words=""
for word in quantize "$input" --output "$output" "$@"; do
    words="$words '$(printf %s "$word" | sed "s/'/'\\\\''/g")'"
done
finish="finish${words#" 'quantize'"}"

# Each task has four cores of a node; --device auto takes a GPU where --gres gives one.
array=$(sbatch --parsable --job-name=wgquant --array="1-$tasks" --cpus-per-task=4 --requeue \
    --wrap="RAYON_NUM_THREADS=\$SLURM_CPUS_PER_TASK exec wgquant$words --shard-task \"\$SLURM_ARRAY_TASK_ID/$tasks\" --quiet")
sbatch --parsable --job-name=wgquant-finish --dependency="afterok:${array%%;*}" --wrap="exec wgquant $finish"
