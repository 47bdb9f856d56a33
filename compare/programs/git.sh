# A repository of its own making, packed anew.
# needs: git
# process: git
prepare() {
    export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z' HOME="$PWD"
    git init -q repository
    cd repository
    git config user.name n && git config user.email n@example.org
    git config gc.auto 0 && git config pack.threads 2
    i=0
    while [ "$i" -lt $((40 * WORK)) ]; do
        seq "$i" 7 $((i + 20000)) >"file$((i % 10))"
        seq $((i * 31)) 13 $((i * 31 + 9000)) >"other$((i % 7))"
        git add . && git commit -qm "change $i"
        i=$((i + 1))
    done
}
run() { HOME="$PWD" peer git -C repository repack -q -a -d -f --depth=20 --window=30; }
