// What the program runs. Each tests one function family for float and double.
#pragma once

namespace scvae::test {

void test_parallel();
void test_lista();
void test_lista_not_finite();
void test_decode();

}  // namespace scvae::test
