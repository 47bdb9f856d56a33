// Names that have to be read back.
#include <cstdlib>
#include <vector>

namespace forest {
template <class Leaf> struct Tree {
    std::vector<Leaf> leaves;
    __attribute__((noinline)) void grow(int count) { leaves.resize(leaves.size() + count); }
};
}

int main() {
    static forest::Tree<double> tree;
    tree.grow(5000);
    return tree.leaves.empty();
}
