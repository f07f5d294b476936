# A thin door to CMake and tools/. `make help` lists what there is.
.PHONY: build check
build:
	@cmake --preset release >/dev/null && cmake --build build/release
check: build
	@ctest --test-dir build/release --output-on-failure
