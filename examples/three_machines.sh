#!/bin/sh
# Three machines on one: a server and two clients, over mutual TLS, each client with rows of its own.
#
#   sh examples/three_machines.sh [FOLDER] [PORT]
#
# On real machines, each line is given where its comment says; docs/tutorials/machines.md explains them.
set -eu
folder=${1:-runs/three_machines}
port=${2:-7443}
mkdir -p "$(dirname "$folder")"
mkdir "$folder"   # a new one: certificates are never overwritten
cd "$folder"

cat > run.toml <<'END'
[data]
prompt = "{question} =>"   # the columns that every client's rows must have
response = "answer"
held_out_samples = 4       # of both clients together; they are not trained on

[federation]
clients = 2

[training]
rounds = 2
END
rows() {
  echo "question,answer"
  for number in 1 2 3 4 5 6 7 8 9 10; do echo "Which room has patient $number?,Room $number$1."; done
}
rows a > clinic-a.csv
rows b > clinic-b.csv

# on a machine that all trust
splitcom certs init authority --host 127.0.0.1
splitcom certs issue authority --client clinic-a
splitcom certs issue authority --client clinic-b

# at the server
splitcom serve run.toml --listen "127.0.0.1:$port" --authority authority --out served &
server=$!
trap 'kill "$server" 2>/dev/null || true' EXIT   # if a client fails, it would wait for ever

# at each client
splitcom join "127.0.0.1:$port" --data clinic-a.csv --identity authority/clients/clinic-a.pem --state a --yes --quiet &
splitcom join "127.0.0.1:$port" --data clinic-b.csv --identity authority/clients/clinic-b.pem --state b --yes --quiet &

wait "$server"
wait
echo "the adapter and the report are in $folder/served"
