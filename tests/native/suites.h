// What the program runs. Each tests one function family for every type that it takes.
#pragma once

namespace scvae::test {

void test_memory();
void test_parallel();
void test_lista();
void test_lista_not_finite();
void test_decode();
void test_lasso();
void test_group_norm_silu();

}  // namespace scvae::test
