// Puts the application of an RP2040 into a UF2 file; where no bootloader lies before it, behind a second-stage one.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

namespace {

using Bytes = std::vector<uint8_t>;

constexpr uint32_t flash = 0x10000000;
constexpr uint32_t rp2040 = 0xe48bff56;
constexpr uint32_t family_is_given = 0x2000;
constexpr size_t page = 256;

void put(Bytes &bytes, uint32_t word)
{
    for (int shift = 0; shift < 32; shift += 8)
        bytes.push_back(uint8_t(word >> shift));
}

// The boot ROM takes the first 252 bytes only with their CRC behind them (RP2040 datasheet 2.8.1.3.1).
uint32_t crc(const Bytes &bytes)
{
    uint32_t sum = 0xffffffff;
    for (uint8_t byte : bytes) {
        sum ^= uint32_t(byte) << 24;
        for (int bit = 0; bit < 8; bit++)
            sum = sum << 1 ^ (sum & 0x80000000 ? 0x04c11db7 : 0);
    }
    return sum;
}

} // namespace

int main(int count, char **arguments)
{
    if (count != 4) {
        std::fputs("usage: uf2 ADDRESS FROM TO\n", stderr);
        return 1;
    }
    uint32_t start = uint32_t(std::strtoul(arguments[1], nullptr, 0));
    std::ifstream from(arguments[2], std::ios::binary);
    const Bytes application((std::istreambuf_iterator<char>(from)), std::istreambuf_iterator<char>());
    if (!from || application.empty()) {
        std::fprintf(stderr, "uf2: cannot read %s\n", arguments[2]);
        return 1;
    }
    Bytes image;
    if (start == flash + page) {
        // A loop: this firmware starts on no chip.
        image = {0xfe, 0xe7};
        image.resize(page - 4);
        put(image, crc(image));
        start = flash;
    }
    image.insert(image.end(), application.begin(), application.end());
    image.resize((image.size() + page - 1) / page * page);

    std::ofstream to(arguments[3], std::ios::binary);
    const uint32_t blocks = uint32_t(image.size() / page);
    for (uint32_t block = 0; block < blocks; block++) {
        Bytes bytes;
        for (uint32_t word : {uint32_t(0x0a324655), uint32_t(0x9e5d5157), family_is_given,
                              uint32_t(start + block * page), uint32_t(page), block, blocks, rp2040})
            put(bytes, word);
        bytes.insert(bytes.end(), image.begin() + block * page, image.begin() + (block + 1) * page);
        bytes.resize(508);
        put(bytes, 0x0ab16f30);
        to.write(reinterpret_cast<const char *>(bytes.data()), std::streamsize(bytes.size()));
    }
    to.close();
    return to ? 0 : 1;
}
