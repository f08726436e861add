import pytest

pytest.register_assert_rewrite("perdure.testing.store_contract")
