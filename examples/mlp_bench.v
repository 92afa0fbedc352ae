// A perceptron with two populations of CIF neurons and a readout, checked against the golden traces of an export.
// `python mlp_bench.py FOLDER` compiles it with the sizes and widths of an export that was written with hex=True.

// One population: integrate, fire +1 or -1, reset by subtraction. All neurons take their step at once.
module population #(parameter NEURONS = 1, WIDTH = 32, COUNT = 8, THRESHOLD = 1) (
    input clk, input clear, input enable,
    input signed [COUNT-1:0] cap,  // wake steps that have begun: no count exceeds it
    input [NEURONS*WIDTH-1:0] currents,
    output reg [NEURONS*2-1:0] spikes,  // two bits each, signed
    output reg [NEURONS*WIDTH-1:0] potentials
);
    reg [NEURONS*COUNT-1:0] counts;
    wire signed [WIDTH-1:0] threshold = THRESHOLD;
    reg signed [WIDTH-1:0] v;
    reg signed [COUNT-1:0] n;
    integer i;
    always @(posedge clk)
        if (clear) begin
            spikes <= 0;
            potentials <= 0;
            counts <= 0;
        end else if (enable)
            for (i = 0; i < NEURONS; i = i + 1) begin
                v = $signed(potentials[i*WIDTH +: WIDTH]) + $signed(currents[i*WIDTH +: WIDTH]);
                n = counts[i*COUNT +: COUNT];
                if (v >= threshold && n < cap) begin
                    spikes[i*2 +: 2] <= 2'b01;
                    potentials[i*WIDTH +: WIDTH] <= v - threshold;
                    counts[i*COUNT +: COUNT] <= n + 1;
                end else if (v < 0 && n > 0) begin
                    spikes[i*2 +: 2] <= 2'b11;
                    potentials[i*WIDTH +: WIDTH] <= v + threshold;
                    counts[i*COUNT +: COUNT] <= n - 1;
                end else begin
                    spikes[i*2 +: 2] <= 2'b00;
                    potentials[i*WIDTH +: WIDTH] <= v;
                end
            end
endmodule

// What a linear map brings: the weights of the neurons that have spiked, added or subtracted, and the biases while awake.
module synapses #(parameter INPUTS = 1, OUTPUTS = 1, BITS = 8, BIAS_BITS = 8, WIDTH = 32, SHIFT = 0) (
    input [INPUTS*2-1:0] spikes,
    input awake,
    output reg [OUTPUTS*WIDTH-1:0] currents
);
    reg signed [BITS-1:0] weights [0:OUTPUTS*INPUTS-1];
    reg signed [BIAS_BITS-1:0] biases [0:OUTPUTS-1];
    reg signed [WIDTH-1:0] sum;
    integer i, o;
    always @*
        for (o = 0; o < OUTPUTS; o = o + 1) begin
            sum = 0;
            for (i = 0; i < INPUTS; i = i + 1)
                if (spikes[i*2])
                    sum = spikes[i*2+1] ? sum - weights[o*INPUTS+i] : sum + weights[o*INPUTS+i];
            currents[o*WIDTH +: WIDTH] = (sum <<< SHIFT) + (awake ? biases[o] : 0);
        end
endmodule

module mlp_bench;
    parameter SAMPLES = 1, STEPS = 1, N1 = 1, N2 = 1, CLASSES = 1;
    parameter WIDTH1 = 32, WIDTH2 = 32, WIDTH3 = 32, THRESHOLD1 = 1, THRESHOLD2 = 1, SHIFT2 = 0;
    parameter DRIVE = 32, W2 = 8, B2 = 8, W3 = 8, V1 = 32, V2 = 32, TOTALS = 32;  // bits in the files
    localparam COUNT = 17;
    reg clk = 0, clear = 0, first = 0, second = 0;
    reg signed [COUNT-1:0] cap = 0;
    reg [STEPS-1:0] awake;  // step 0 is the lowest bit
    reg signed [DRIVE-1:0] drive [0:SAMPLES*N1-1];
    reg signed [1:0] spikes1 [0:SAMPLES*STEPS*N1-1], spikes2 [0:SAMPLES*STEPS*N2-1];
    reg signed [V1-1:0] potentials1 [0:SAMPLES*STEPS*N1-1];
    reg signed [V2-1:0] potentials2 [0:SAMPLES*STEPS*N2-1];
    reg signed [TOTALS-1:0] totals [0:SAMPLES*STEPS*CLASSES-1];
    reg signed [WIDTH3-1:0] readout [0:CLASSES-1];
    reg [N1*WIDTH1-1:0] current1;
    reg [8*512-1:0] folder;
    wire [N1*2-1:0] fired1;
    wire [N2*2-1:0] fired2;
    wire [N1*WIDTH1-1:0] v1;
    wire [N2*WIDTH2-1:0] v2, current2;
    wire [CLASSES*WIDTH3-1:0] current3;
    integer s, t, i, at, checked = 0, wrong = 0;

    population #(N1, WIDTH1, COUNT, THRESHOLD1) one(clk, clear, first, cap, current1, fired1, v1);
    synapses #(N1, N2, W2, B2, WIDTH2, SHIFT2) to_two(fired1, awake[t], current2);
    population #(N2, WIDTH2, COUNT, THRESHOLD2) two(clk, clear, second, cap, current2, fired2, v2);
    synapses #(N2, CLASSES, W3, 1, WIDTH3, 0) to_readout(fired2, 1'b0, current3);

    task tick; begin #1 clk = 1; #1 clk = 0; end endtask
    task check(input same); begin checked = checked + 1; if (same !== 1'b1) wrong = wrong + 1; end endtask

    initial begin
        t = 0;
        if (!$value$plusargs("awake=%b", awake)) $finish;
        if ($value$plusargs("drive=%s", folder)) $readmemh(folder, drive);
        if ($value$plusargs("w2=%s", folder)) $readmemh(folder, to_two.weights);
        if ($value$plusargs("b2=%s", folder)) $readmemh(folder, to_two.biases);
        if ($value$plusargs("w3=%s", folder)) $readmemh(folder, to_readout.weights);
        if ($value$plusargs("spikes1=%s", folder)) $readmemh(folder, spikes1);
        if ($value$plusargs("spikes2=%s", folder)) $readmemh(folder, spikes2);
        if ($value$plusargs("potentials1=%s", folder)) $readmemh(folder, potentials1);
        if ($value$plusargs("potentials2=%s", folder)) $readmemh(folder, potentials2);
        if ($value$plusargs("totals=%s", folder)) $readmemh(folder, totals);
        for (i = 0; i < CLASSES; i = i + 1) to_readout.biases[i] = 0;
        for (s = 0; s < SAMPLES; s = s + 1) begin
            clear = 1; tick; clear = 0; cap = 0;
            for (i = 0; i < CLASSES; i = i + 1) readout[i] = 0;
            for (t = 0; t < STEPS; t = t + 1) begin
                cap = cap + awake[t];
                for (i = 0; i < N1; i = i + 1) current1[i*WIDTH1 +: WIDTH1] = awake[t] ? drive[s*N1+i] : 0;
                first = 1; tick; first = 0;  // layer after layer within a step: the second reads what the first has just fired
                second = 1; tick; second = 0;
                at = s * STEPS + t;
                for (i = 0; i < N1; i = i + 1) begin
                    check($signed(fired1[i*2 +: 2]) == spikes1[at*N1+i]);
                    check($signed(v1[i*WIDTH1 +: WIDTH1]) == potentials1[at*N1+i]);
                end
                for (i = 0; i < N2; i = i + 1) begin
                    check($signed(fired2[i*2 +: 2]) == spikes2[at*N2+i]);
                    check($signed(v2[i*WIDTH2 +: WIDTH2]) == potentials2[at*N2+i]);
                end
                for (i = 0; i < CLASSES; i = i + 1) begin
                    readout[i] = readout[i] + $signed(current3[i*WIDTH3 +: WIDTH3]);
                    check(readout[i] == totals[at*CLASSES+i]);
                end
            end
        end
        $display("%0d of %0d numbers differ", wrong, checked);
        $finish;
    end
endmodule
