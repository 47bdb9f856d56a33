# A compiler at work on the standard library's templates.
# needs: g++
# process: cc1plus
prepare() {
    {
        echo '#include <algorithm>'
        [ "$WORK" -eq 1 ] || echo '#include <regex>'
        printf '#include <%s>\n' map string vector functional memory
        echo 'template <int N> struct Chain { std::map<std::string, std::vector<int>> map; Chain<N - 1> rest; };'
        echo 'template <> struct Chain<0> {};'
        echo 'int use(Chain<120> &chain, std::vector<int> &v) {'
        echo '    std::sort(v.begin(), v.end()); return chain.map.size(); }'
        [ "$WORK" -eq 1 ] || echo 'bool match(std::string s) { return std::regex_match(s, std::regex("a(b|c)*d")); }'
    } >work.cc
}
run() { peer g++ -O2 -c work.cc -o work.o; }
