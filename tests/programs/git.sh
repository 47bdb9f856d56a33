# git on a history of its own: imported, cloned, repacked by two threads, pruned, checked, and read back.
export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='1700000000 +0000' GIT_COMMITTER_DATE='1700000000 +0000'
git config --global user.name check
git config --global user.email check@localhost
git config --global init.defaultBranch main
git config --global gc.auto 0
served git version
cat >history.pl <<'PL'
$state = 1;
sub any { $state = ($state * 1103515245 + 12345) % 2147483648; return int($state / 65536) % $_[0] }
for $commit (1 .. 1000) {
    print "commit refs/heads/main\ncommitter check <check\@localhost> ", 1600000000 + $commit, " +0000\n";
    print "data 7\nmessage\n";
    for (1 .. 4) {
        $text = join "", map { "line " . any(5000) . "\n" } 1 .. 40 + any(300);
        print "M 644 inline folder", any(20), "/file", any(40), "\ndata ", length $text, "\n$text\n";
    }
    print "\n";
}
PL
perl history.pl >history
git init -q --bare expected.git
git -C expected.git fast-import --quiet <history
head=$(git -C expected.git rev-parse main)

preloaded git init -q --bare one.git
preloaded git -C one.git fast-import --quiet <history
[ "$(git -C one.git rev-parse main)" = "$head" ] || fail "the import made another history"
preloaded git clone -q --no-local one.git two
preloaded git -C two repack -q -adf --threads=2 --window=20 --depth=50
preloaded git -C two fsck --full --strict
preloaded git -C two gc -q --prune=now
preloaded git -C two fsck --full --strict
[ "$(git -C two rev-parse main)" = "$head" ] || fail "the clone has another history"
git -C expected.git log --stat -M --format='%H %s' main | sha256sum >expected
preloaded git -C two log --stat -M --format='%H %s' main | sha256sum >found
same found expected
git -C expected.git archive main | sha256sum >expected
preloaded git -C two archive main | sha256sum >found
same found expected
cd two
[ -z "$(preloaded git status --short)" ] || fail "the work tree is not clean"
preloaded git checkout -q -b side main~200
echo new >new
preloaded git add new
preloaded git commit -q -m side
preloaded git merge -q -m merge main
preloaded git fsck
git diff --exit-code --stat main -- . ':!new'
