// The test suites. Each tests one family of functions for every type that it supports.
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
